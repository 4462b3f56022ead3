"""Addresses of the billing app. APIs answer with and without a trailing slash: a redirect would lose a POST's body."""

from typing import Any

from django.urls import URLPattern, path

from .abuse import api as abuse
from .accounts import api as accounts
from .accounts import members_api as members
from .accounts import pages
from .invoices import api as invoices
from .invoices.profile_api import BillingProfileView
from .ledger import api as credits
from .ledger import usage_api as usage
from .notices.api import CreditNoticeView, NoticePreferencesView
from .payments import api as payments
from .payments import returns
from .payments.inbox.api import GatewayWebhookView
from .payments.invoice_api import InvoiceLinkView, InvoiceOrderView, InvoiceRetryView
from .payments.invoice_page import invoice_page
from .payments.methods_api import AutoRenewalView, PaymentMethodsView, PaymentMethodView
from .payments.quote_api import QuoteView
from .payments.refund_api import InvoiceRefundView
from .plans import api as plans
from .subscriptions import api as subscriptions
from .subscriptions.models import Subscription
from .subscriptions.onboarding_api import RegisterView, TeamsView
from .subscriptions.preview import invoices_upcoming
from .subscriptions.selectors import subscription_live
from .subscriptions.services import period_credits_grant
from .webhooks import api as webhooks


def api_path(route: str, view: Any, name: str, **wired: Any) -> list[URLPattern]:
    """`route` and `route/` for one API view; the schema shows the first. `wired` sets attributes of the view."""
    return [path(route, view.as_view(**wired), name=name), path(f"{route}/", view.as_view(schema=None, **wired))]


# The ledger stands below subscriptions: what its views ask of them is wired here.
SUBSCRIPTIONS = {"subscription_of": subscription_live}
# A plan's credits come with payment: not while one is overdue, and not while it is paused.
PERIOD_CREDITS = credits.PeriodCredits(
    subscriptions=Subscription.objects.filter(state__in=(Subscription.State.TRIALING, Subscription.State.ACTIVE)),
    grant=period_credits_grant,
)
# Where gateways that were set up long ago still send to.
OLDER_WEBHOOK_ADDRESSES = {"payment/webhook/chargily": "chargily", "webhooks/stripe": "stripe", "webhooks/paypal": "paypal"}

urlpatterns = [
    *api_path("api/auth/register", RegisterView, "auth-register"),
    *api_path("api/auth/login", accounts.LoginView, "auth-login"),
    *api_path("api/auth/refresh", accounts.RefreshView, "auth-refresh"),
    *api_path("api/auth/logout", accounts.LogoutView, "auth-logout"),
    *api_path("api/auth/me", accounts.MeView, "auth-me"),
    *api_path("api/auth/password", members.PasswordView, "auth-password"),
    *api_path("api/auth/verify-email", accounts.VerifyEmailView, "auth-verify-email"),
    *api_path("api/auth/verify-email/resend", accounts.VerifyEmailResendView, "auth-verify-email-resend"),
    *api_path("api/auth/password-reset", accounts.PasswordResetView, "auth-password-reset"),
    *api_path("api/auth/password-reset/confirm", accounts.PasswordResetConfirmView, "auth-password-reset-confirm"),
    *api_path("api/account", members.AccountView, "account"),
    *api_path("api/accounts", TeamsView, "accounts"),
    *api_path("api/members", members.MembersView, "members"),
    *api_path("api/members/<str:user_id>", members.MemberView, "member"),
    *api_path("api/invitations", members.InvitationsView, "invitations"),
    *api_path("api/invitations/accept", members.InvitationAcceptView, "invitation-accept"),
    *api_path("api/invitations/<str:invitation_id>", members.InvitationView, "invitation"),
    *api_path("api/keys/leaked", accounts.LeakedKeyView, "keys-leaked"),
    # An id is any text: what is no id is answered as one that does not exist.
    *api_path("api/keys", accounts.KeysView, "keys"),
    *api_path("api/keys/<str:key_id>", accounts.KeyView, "key"),
    *api_path("api/keys/<str:key_id>/rotate", accounts.KeyRotateView, "key-rotate"),
    *api_path("api/credits/check", credits.CheckView, "credits-check", **SUBSCRIPTIONS),
    *api_path("api/credits/consume", credits.ConsumeView, "credits-consume", **SUBSCRIPTIONS),
    *api_path("api/credits/hold", credits.HoldView, "credits-hold", **SUBSCRIPTIONS),
    *api_path("api/credits/settle", credits.SettleView, "credits-settle"),
    *api_path("api/credits/release", credits.ReleaseView, "credits-release"),
    *api_path("api/credits/reset-monthly", credits.ResetMonthlyView, "credits-reset-monthly", period_credits=PERIOD_CREDITS),
    *api_path("api/billing/me", usage.BillingMeView, "billing-me", **SUBSCRIPTIONS),
    *api_path("api/billing/usage", usage.UsageView, "billing-usage"),
    *api_path("api/billing/usage/<str:request_id>", usage.UsageExplainView, "billing-usage-explain"),
    *api_path("api/billing/invoices", invoices.InvoicesView, "billing-invoices"),
    *api_path(
        "api/billing/invoices/preview", invoices.InvoicePreviewView, "billing-invoices-preview", upcoming=invoices_upcoming
    ),
    # A number may have slashes: Indian ones do.
    *api_path("api/billing/invoices/<path:number>/pdf", invoices.InvoicePdfView, "billing-invoice-pdf"),
    *api_path("api/billing/invoices/<path:number>", invoices.InvoiceView, "billing-invoice"),
    *api_path("api/billing/profile", BillingProfileView, "billing-profile"),
    *api_path("api/billing/plans", plans.PlansView, "billing-plans"),
    *api_path("api/billing/packs", plans.PacksView, "billing-packs"),
    *api_path("api/billing/credit-costs", plans.CreditCostsView, "billing-credit-costs"),
    *api_path("api/billing/notices", CreditNoticeView, "billing-notices"),
    *api_path("api/billing/notices/preferences", NoticePreferencesView, "billing-notice-preferences"),
    *api_path("api/billing/webhooks", webhooks.EndpointsView, "webhooks"),
    *api_path("api/billing/webhooks/event-types", webhooks.EventTypesView, "webhooks-event-types"),
    *api_path("api/billing/webhooks/<str:endpoint_id>", webhooks.EndpointView, "webhook"),
    *api_path("api/billing/webhooks/<str:endpoint_id>/rotate-secret", webhooks.RotateSecretView, "webhook-rotate-secret"),
    *api_path("api/billing/webhooks/<str:endpoint_id>/test", webhooks.TestView, "webhook-test"),
    *api_path("api/billing/webhooks/<str:endpoint_id>/replay", webhooks.ReplaySinceView, "webhook-replay"),
    *api_path("api/billing/webhooks/<str:endpoint_id>/deliveries", webhooks.DeliveriesView, "webhook-deliveries"),
    *api_path("api/billing/webhooks/<str:endpoint_id>/deliveries/<str:delivery_id>", webhooks.DeliveryView, "webhook-delivery"),
    *api_path(
        "api/billing/webhooks/<str:endpoint_id>/deliveries/<str:delivery_id>/replay",
        webhooks.DeliveryReplayView,
        "webhook-delivery-replay",
    ),
    *api_path("api/admin/users/abusive", abuse.AbusiveUsersView, "admin-users-abusive"),
    *api_path("api/admin/users/<str:user_id>/ban", abuse.BanView, "admin-users-ban"),
    *api_path("api/admin/users/<str:user_id>/unban", abuse.UnbanView, "admin-users-unban"),
    *api_path("api/subscriptions", payments.SubscriptionsView, "subscriptions"),
    *api_path("api/subscriptions/<str:subscription_id>", subscriptions.SubscriptionView, "subscription"),
    *api_path("api/subscriptions/<str:subscription_id>/cancel", subscriptions.SubscriptionCancelView, "subscription-cancel"),
    *api_path(
        "api/subscriptions/<str:subscription_id>/change-plan", payments.SubscriptionChangePlanView, "subscription-change-plan"
    ),
    *api_path("api/subscriptions/<str:subscription_id>/pause", subscriptions.SubscriptionPauseView, "subscription-pause"),
    *api_path("api/subscriptions/<str:subscription_id>/resume", subscriptions.SubscriptionResumeView, "subscription-resume"),
    *api_path(
        "api/subscriptions/<str:subscription_id>/regenerate-key",
        subscriptions.SubscriptionKeyView,
        "subscription-regenerate-key",
    ),
    *api_path("api/subscriptions/<str:subscription_id>/usage", subscriptions.SubscriptionUsageView, "subscription-usage"),
    *api_path("api/payment/subscribe/<str:plan>", payments.SubscribeView, "payment-subscribe"),
    *api_path("api/payment/topup", payments.TopupView, "payment-topup"),
    *api_path("api/payment/quote", QuoteView, "payment-quote"),
    *api_path("api/payment/status", payments.PaymentStatusView, "payment-status"),
    *api_path("api/payment/cancel", payments.PaymentCancelView, "payment-cancel"),
    *api_path("api/payment/gateways", payments.GatewaysView, "payment-gateways"),
    *api_path("api/payment/methods", PaymentMethodsView, "payment-methods"),
    *api_path("api/payment/methods/<str:card_id>", PaymentMethodView, "payment-method"),
    *api_path("api/payment/auto-renewal", AutoRenewalView, "payment-auto-renewal"),
    *api_path("api/payment/invoices/<path:number>/order", InvoiceOrderView, "payment-invoice-order"),
    *api_path("api/payment/invoices/<path:number>/link", InvoiceLinkView, "payment-invoice-link"),
    *api_path("api/payment/invoices/<path:number>/retry", InvoiceRetryView, "payment-invoice-retry"),
    *api_path("api/payment/invoices/<path:number>/refund", InvoiceRefundView, "payment-invoice-refund"),
    *api_path("api/payment/payments/<str:reference>", payments.PaymentView, "payment"),
    *api_path("api/payment/payments/<str:reference>/proof", payments.ProofView, "payment-proof"),
    # Where older clients ask.
    *(
        path(f"{address}{slash}", view.as_view(schema=None))
        for address, view in (
            ("payment/subscribe/<str:plan>", payments.SubscribeView),
            ("payment/subscription/status", payments.PaymentStatusView),
        )
        for slash in ("", "/")
    ),
    *api_path("api/payment/webhook/<str:gateway>", GatewayWebhookView, "payment-webhook"),
    *(
        path(f"{address}{slash}", GatewayWebhookView.as_view(schema=None, gateway=gateway))
        for address, gateway in OLDER_WEBHOOK_ADDRESSES.items()
        for slash in ("", "/")
    ),
    *api_path("api/payment/razorpay/verify", returns.RazorpayVerifyView, "payment-razorpay-verify"),
    *api_path("api/payment/payu/verify", returns.PayUVerifyView, "payment-payu-verify"),
    path("payment/invoice/<str:token>", invoice_page, name="payment-invoice"),
    path("payment/return/<slug:reference>", returns.payment_return, name="payment-return"),
    path("payment/pay/<slug:reference>", returns.payment_pay, name="payment-pay"),
    path("payment/payu/return", returns.payu_return, name="payment-payu-return"),
    path("auth/verify-email", pages.verify_email, name="verify-email"),
    path("auth/password-reset", pages.password_reset, name="password-reset"),
]
